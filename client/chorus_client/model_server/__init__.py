"""A standalone server for Hugging Face SafeTensors models (seeds 003, 004): `python -m chorus_client.model_server`."""
