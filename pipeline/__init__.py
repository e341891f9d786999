"""The four stages, data preparation, settings and the runner that maps a stage over its shards; no Prefect in here."""
