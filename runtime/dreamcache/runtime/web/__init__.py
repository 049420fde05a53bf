"""`dreamcache web`: the same bundle in a phone's browser, which this machine serves."""
