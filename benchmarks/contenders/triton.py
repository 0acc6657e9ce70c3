"""Serve an ONNX graph by Triton, through PyTriton: dynamic batching, V2 gRPC. Needs nvidia-pytriton and onnxruntime."""

import socket
import sys

import numpy as np
import onnxruntime as ort
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def free_port() -> int:
    """Return a free port of loopback."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main() -> None:
    """Serve the graph at the first argument as ``model``, until ended."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    size, windows = session.get_inputs()[0].shape[-1], session.get_outputs()[0].shape[-1]

    @batch
    def infer(hidden_state: np.ndarray) -> dict[str, np.ndarray]:
        return {"curve": session.run(["curve"], {"hidden_state": hidden_state})[0]}

    grpc_port = free_port()
    ports = TritonConfig(http_port=free_port(), grpc_port=grpc_port, metrics_port=free_port(), log_verbose=0)
    with Triton(config=ports) as triton:
        triton.bind(
            model_name="model",
            infer_func=infer,
            inputs=[Tensor(name="hidden_state", dtype=np.float32, shape=(size,))],
            outputs=[Tensor(name="curve", dtype=np.float32, shape=(windows,))],
            config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.run()
        sys.stderr.write(f"listening on port {grpc_port}\n")
        sys.stderr.flush()
        triton.serve()


if __name__ == "__main__":
    main()
