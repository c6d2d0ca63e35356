"""From runs to figures and pages: `reproduce` executes the notebooks, `page` is the HTML report."""
