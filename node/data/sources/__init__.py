"""Where documents come from: one file a kind of source; `dispatch` has the table of them."""
