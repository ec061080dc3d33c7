"""Which relabelling is a valid null under which cross-validation; `labellings` draws them."""

from jaxalign.errors import nearest

SCHEMES = ("test_stimuli", "responses")
"""test_stimuli relabels held-out stimuli, weights unchanged; responses permutes response rows before any fit."""

CROSS_VALIDATIONS = ("fixed_split", "k_fold", "nested", "leave_one_out", "groups", "runs")


def default_scheme(is_fixed_split: bool) -> str:
    """Cheapest null that is valid for the cross-validation: test_stimuli for a given test set, else responses."""
    return "test_stimuli" if is_fixed_split else "responses"


def check_scheme(scheme: str, cv: str) -> None:
    """Refuse a null that is too narrow for its cross-validation.

    When every stimulus is held out in one fold and fits the weights of the others, a pair of stimuli enters the score
    from both sides and fold scores are correlated. Relabelling held-out stimuli breaks that tie in the null but not in
    the observed score, so the null has about half the variance that it should have.

    Args:
        scheme: "test_stimuli" or "responses".
        cv: "fixed_split", or a cross-validation in which each stimulus is both trained on and tested: "k_fold",
            "nested", "leave_one_out", "groups" or "runs".
    Raises:
        ValueError: if a name is unknown, or held-out stimuli would be relabelled under anything but a fixed split.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme={scheme!r} is not a null. {nearest(scheme, SCHEMES)}")
    if cv not in CROSS_VALIDATIONS:
        raise ValueError(f"cv={cv!r} is not a cross-validation. {nearest(cv, CROSS_VALIDATIONS)}")
    if scheme == "test_stimuli" and cv != "fixed_split":
        raise ValueError(
            f"scheme='test_stimuli' with cv={cv!r}: training sets overlap and each held-out score shares data with the others, so relabelling held-out stimuli has a false positive rate of .098 to .124 at .05 in simulation. Use scheme='responses', which permutes the responses before fitting, with the same decomposition and penalties chosen anew (.037 to .060)."
        )
