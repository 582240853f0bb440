"""What a study found: read from run directories alone, written as Markdown, HTML, CSV, LaTeX and figures."""
