"""`hf-cl app`: a page on this machine to try an adapter, and to ask what it would have said after an earlier session."""
