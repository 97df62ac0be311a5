"""Cold-start data for real images: teachers behind chat endpoints write texts, gold chooses (paper section 2)."""
