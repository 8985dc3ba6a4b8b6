"""One run, from a config to a trained model in its workdir."""
