"""The report on proposals of any source against labels: masks or names, what holds a result back."""
