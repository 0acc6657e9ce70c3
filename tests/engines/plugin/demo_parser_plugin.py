"""Makes the demo's parser known to vLLM; the parser itself imports what is not there yet when plugins are loaded."""


def register():
    """Register it as ``demo``."""
    from vllm.reasoning import ReasoningParserManager

    ReasoningParserManager.register_lazy_module("demo", "demo_parser", "DemoParser")
