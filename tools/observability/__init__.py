"""Makes what an SRE runs, ``python -m tools.observability``: recording and alerting rules, the Grafana dashboard."""
