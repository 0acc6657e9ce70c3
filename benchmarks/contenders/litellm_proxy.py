"""Run LiteLLM's proxy before an OpenAI-compatible server, and say when it serves. Needs litellm[proxy]."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request


def main() -> None:
    """Serve the backend at the first argument as ``m``, until ended."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    model = {"model": "openai/m", "api_base": f"{sys.argv[1]}/v1", "api_key": "none"}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as config:
        json.dump({"model_list": [{"model_name": "m", "litellm_params": model}]}, config)  # JSON is YAML
    command = [os.path.join(os.path.dirname(sys.executable), "litellm"), "--config", config.name]
    quiet = dict(
        os.environ,
        LITELLM_LOG="ERROR",
        LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY="true",
        LITELLM_LOCAL_MODEL_COST_MAP="True",
        NO_DOCS="True",
    )
    proxy = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)], env=quiet, stdout=sys.stderr, stderr=sys.stderr
    )
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=1)
            break
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    sys.stderr.write(f"listening on port {port}\n")
    sys.stderr.flush()
    proxy.wait()


if __name__ == "__main__":
    main()
