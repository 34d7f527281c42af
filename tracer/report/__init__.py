"""The report of a traced model: in the terminal, and as one HTML page that needs no network.

Both take the object that `trace-model --json` prints and change nothing in it. Neither loads torch.

- `terminal.py` prints it with rich; readable at 80 columns and in a pipe.
- `html.py` inlines `page/` (markup, style, scripts) and the object into one file.
- `view.py` holds what both say in the same words: the verdict, short parameters, index ranges.

A workload is either one `{"b", "s", "p"}` for both phases or one per phase. With a single one the
generation phase decodes what the context phase left: s = 1 and p = p + s.
"""
