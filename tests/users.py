"""As users run: what they see of an error."""

import jax
import jaxtyping
import pytest


@pytest.fixture(autouse=True)
def as_users_run():
    """No run-time type checker and JAX's default promotion: our own words are read."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    with jax.numpy_dtype_promotion("standard"):
        yield
    jaxtyping.config.update("jaxtyping_disable", before)


def refuses(error, words, call, *args, **options):
    with pytest.raises(error, match=words):
        call(*args, **options)
