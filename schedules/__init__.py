"""TensorIR schedules: rules per operator family, and the choice among them."""
