"""What the third-party programs of the tests evaluate, in workers or serially."""


def bowl(point):
    """Return the squared distance from (1, 2, ...)."""
    return sum((x - i) ** 2 for i, x in enumerate(point, start=1))


def log_likelihood(point):
    """Return the logarithm of a Gaussian around (1, 2, ...), not normalised."""
    return -0.5 * float(bowl(point))


def to_prior(unit):
    """Spread points of the unit cube over -10 to 10."""
    return 20.0 * unit - 10.0


def log_likelihood_of_named(parameters):
    """Return the same of parameters given by name, as nautilus does."""
    return log_likelihood([parameters["a"], parameters["b"]])


def square(number):
    """Return the square of a number."""
    return number * number
