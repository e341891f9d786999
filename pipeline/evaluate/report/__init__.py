"""The report of an evaluation: numbers, charts, pictures, and the page that shows them."""
