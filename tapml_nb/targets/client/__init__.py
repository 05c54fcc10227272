"""The notebook's side of a target: one supervised session, whatever becomes of it."""
