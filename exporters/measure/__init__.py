"""From questions to measured curves: generate, check answers, merge, take hidden states."""
