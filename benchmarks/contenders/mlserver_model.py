"""Serve an ONNX graph by MLServer: adaptive batching, V2 gRPC. Needs mlserver and onnxruntime."""

import asyncio
import os
import socket
import sys

import onnxruntime as ort
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    """Runs the ONNX graph for MLServer."""

    async def load(self) -> bool:
        """Load the graph of the model folder."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        path = os.environ["BENCHMARK_GRAPH"]
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run one request as a batch."""
        states = NumpyCodec.decode_input(payload.inputs[0])
        curves = self._session.run(["curve"], {"hidden_state": states})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("curve", curves)])


def free_port() -> int:
    """Return a free port of loopback."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def main() -> None:
    """Serve the graph at the first argument as ``model``, until ended."""
    os.environ["BENCHMARK_GRAPH"] = sys.argv[1]
    settings = Settings(
        host="127.0.0.1", http_port=free_port(), grpc_port=free_port(), metrics_port=free_port(),
        parallel_workers=int(os.environ.get("BENCHMARK_WORKERS", "0")), debug=False,
    )  # fmt: skip
    server = MLServer(settings)
    model = ModelSettings(
        name="model", implementation=OnnxModel, max_batch_size=64, max_batch_time=0.001,
        parameters=ModelParameters(version="1"),
    )  # fmt: skip
    serving = asyncio.create_task(server.start([model]))
    await asyncio.sleep(4)  # it tells nobody when it is ready
    sys.stderr.write(f"listening on port {settings.grpc_port}\n")
    sys.stderr.flush()
    await serving


if __name__ == "__main__":
    asyncio.run(main())
