"""One session's contexts with their keys in another of the seed draft's three cases (section 4).

Case 1 and 2 let the receiver derive: SK_* from the Diffie-Hellman secret or SKEYSEED, KEYMAT from SK_d.  Case 3
carries the keys themselves.  One goes down, from 1 to 2 to 3, never up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from .base import Context
from .ikev2 import IkeSaContext
from .ipsec import IpsecSaContext
from .keys import derive_ike_keys, derive_ipsec_keys, to_key_case
from .values import IkeSpis, KeymatDerivation


def with_key_case(contexts: Iterable[Context], case: int) -> tuple[Context, ...]:
    """The same contexts, keys in this case.

    Raises LocalError where a context has its keys in a later case already, RemoteError where keys can't be
    derived.  KEYMAT whose IKE_SA is not among the contexts stays as it is.
    """
    given = tuple(contexts)
    parents = {context.spis: context for context in given if isinstance(context, IkeSaContext)}
    return tuple(_converted(context, parents, case) for context in given)


def _converted(context: Context, parents: dict[IkeSpis, IkeSaContext], case: int) -> Context:
    if isinstance(context, IkeSaContext):
        return replace(context, keying=to_key_case(context.keying, context.proposal, context.spis, case))
    if case == 3 and isinstance(context, IpsecSaContext) and isinstance(context.keying, KeymatDerivation):
        parent = parents.get(context.keying.ike_spis)
        if parent is not None:
            sk_d = derive_ike_keys(parent.keying, parent.proposal, parent.spis).sk_d
            return replace(
                context, keying=derive_ipsec_keys(context.keying, context.proposal, sk_d, parent.proposal.prf)
            )
    return context
