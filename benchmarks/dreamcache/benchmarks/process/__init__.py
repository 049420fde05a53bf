"""A fresh measured process: started, limited, its memory sampled from outside."""
