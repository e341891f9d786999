"""The app of ``ovseg app``: a photograph and names in, masks out, in a browser; `page` alone needs Gradio."""
