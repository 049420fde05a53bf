"""From a photograph to the subject on white."""
