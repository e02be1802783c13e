"""Sources of documents: one file for each kind; `dispatch` has the table of kinds."""
