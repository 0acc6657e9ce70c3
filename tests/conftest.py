"""Settings for all tests."""

import grpc.aio
from hypothesis import settings

# Timings vary on shared machines; what matters here are laws.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")

# Held for the whole session: when the last user of grpc.aio is collected while cancelled calls are still outstanding,
# it joins its poller thread, which waits for them for ever.
grpc.aio.init_grpc_aio()
