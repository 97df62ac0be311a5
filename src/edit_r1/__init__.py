"""Edit-R1: a reasoning verifier of image edits from human preferences, and a better editor from the verifier."""
