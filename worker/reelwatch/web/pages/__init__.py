"""The page: what people see of Reelwatch in a browser. Routes, views, templates and assets."""
