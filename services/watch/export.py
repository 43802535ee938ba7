"""report.html."""
def page_of(run):
    return ""
