"""A vLLM connector that sends the hidden state of a prompt's last token, as soon as the prompt is computed.

Only vLLM imports the connector itself, by ``kv_connector_module_path``; the other modules need the standard library.
"""

__version__ = "0.1.0"
