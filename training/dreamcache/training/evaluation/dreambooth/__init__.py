"""DreamBooth's benchmark: pictures of real subjects after one reference, scored by DINO and CLIP."""
