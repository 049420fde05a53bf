"""The paper's ablations and open questions on the miniature: what is compared, run and laid out."""
