"""How the shipped model is made, stage by stage."""
