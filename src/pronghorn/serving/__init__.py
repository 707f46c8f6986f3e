"""What the pages of models/ share: accepting, loops, flows of control, and deadlines."""
