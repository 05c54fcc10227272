"""What Jupyter sees of tapml_nb beside the widgets: server route, magics, progress."""
