"""What a terminal or Jupyter sees beside the widgets: progress, the page that is a target, the
%tapml magic, and the server's route for pages of other machines."""
