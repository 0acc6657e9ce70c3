"""The predictor's own API on the wire: its messages, and the stream of them."""
