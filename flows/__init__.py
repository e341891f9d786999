"""The `ovseg` command, its configurations and the Prefect flow around the pipeline; nobody imports this package."""
