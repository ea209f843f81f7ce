"""Several llama-servers on one PC, named in one file: started, stopped, and offered as models of the node."""
