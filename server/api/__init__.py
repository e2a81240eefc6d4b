"""HTTP only: parse, authorise, call, shape. What is done is behind `services.Services`."""
