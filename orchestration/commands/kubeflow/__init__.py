"""One module per command of `kubeflow_runner.py`."""
