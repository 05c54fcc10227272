"""What a terminal or Jupyter sees beside the widgets: progress, the page that is a target, and the
server's route for pages of other machines."""
