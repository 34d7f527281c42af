"""What each ATen operator is to the matcher, by kind of work. An operator on none of these lists needs a
matcher of its own.
"""

from __future__ import annotations

import operator

import torch
from torch import fx


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


VIEWS = _names(
    """
    alias as_strided chunk detach expand expand_as flatten lift_fresh movedim mT narrow numpy_T
    permute reshape resolve_conj resolve_neg select slice split split_with_sizes squeeze
    swapaxes t tensor_split transpose unbind unflatten unsafe_split unsafe_chunk unsqueeze view
    detach_ broadcast_tensors broadcast_to lift_fresh_copy
    reshape_as view_as view_as_complex view_as_real _unsafe_view diagonal unfold dropout feature_dropout
    """
)
CONSTANTS = _names(
    """
    arange empty empty_like empty_strided eye full full_like linspace new_empty
    new_empty_strided new_full new_ones new_zeros ones ones_like rand randn scalar_tensor
    tril_indices triu_indices zeros zeros_like
    """
)
BOOKKEEPING = _names(
    """
    _assert_async _assert_scalar _assert_tensor_metadata sym_constrain_range
    sym_constrain_range_for_size sym_numel sym_size sym_storage_offset sym_stride
    _is_all_true
    """
)
CASTS = _names(
    """
    to type_as _to_copy float half bfloat16
    """
)
REDUCTIONS = _names(
    """
    all amax amin any layer_norm linalg_vector_norm log_softmax logsumexp max mean min
    native_layer_norm norm prod rms_norm group_norm softmax std sum var var_mean _softmax
    _log_softmax
    """
)
MOVES = _names(
    """
    cat clone concat concatenate constant_pad_nd contiguous copy copy_ fill_ flip gather index index_put
    index_put_ index_select masked_scatter one_hot pad repeat repeat_interleave roll scatter
    scatter_ scatter_add scatter_add_ slice_scatter select_scatter stack take_along_dim tile
    tril triu zero_
    """
)
#: Pointwise mathematics that ATen does not tag as pointwise.
MATHEMATICS = _names(
    """
    div_ mul_ add_ sub_ square glu softplus polar floor_divide masked_fill masked_fill_ where
    gelu silu mish hardswish leaky_relu prelu clamp_ sigmoid_ relu_ tanh_ exp_ hypot complex
    rsub multiply log_sigmoid true_divide type_as relu6 selu float_power std_mean celu __and__ __or__ __xor__
    __iand__ __ior__
    """
)
#: Operators that read their first tensor alone, and of the second the shape or dtype.
FORMED = frozenset(["expand_as", "view_as", "reshape_as", "type_as"])
#: Reads of a table at indices: token data even where the table is a parameter and the indices are positions.
LOOKUPS = frozenset(["embedding", "gather", "index", "index_select", "take_along_dim"])
#: Further operators that position and mask arithmetic may use.
POSITION_ONLY = _names(
    """
    cumsum matmul bmm mm einsum outer bucketize searchsorted unique_consecutive diff histc
    index_copy cummax embedding isin argmax argmin nonzero sort topk baddbmm
    """
)
PRODUCTS = frozenset(["matmul", "bmm", "mm", "baddbmm", "einsum"])


def base_name(node: fx.Node) -> str:
    """`aten.add.Tensor` -> `add`; the operator's name without namespace and overload."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target.overloadpacket.__name__
    return getattr(target, "__name__", str(target))


def full_name(node: fx.Node) -> str:
    """`aten.add`, `trace_model.attention`, or the Python name of a function."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target.overloadpacket.__name__}"
    return getattr(target, "__name__", str(target))


def is_aten(node: fx.Node) -> bool:
    """Whether the node calls an ATen operator (and not a boundary or an operator of somebody's own)."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace in (
        "aten",
        "prims",
    )


def is_shape_arithmetic(node: fx.Node) -> bool:
    """Whether the node computes integers or checks, and no tensor."""
    if node.target is operator.getitem:
        return False
    if base_name(node) in BOOKKEEPING:
        return True
    return getattr(node.target, "__module__", "") in (
        "_operator",
        "math",
        "builtins",
        "torch",
    ) and not isinstance(node.meta.get("val"), torch.Tensor | list | tuple)


def takes_form(node: fx.Node) -> bool:
    """Whether the node reads its first tensor alone, and of the second the shape or dtype."""
    return base_name(node) in FORMED


def is_view(node: fx.Node) -> bool:
    """Whether the node moves no data. `reshape` counts as a view: where it copies, its neighbours' fusion hides it."""
    if node.target is operator.getitem:
        return True
    name = base_name(node)
    if not is_aten(node):
        return False
    if name in CASTS or name in ("contiguous",):
        if not node.all_input_nodes:
            return False
        value, source = node.meta.get("val"), node.all_input_nodes[0].meta.get("val")
        return (
            isinstance(value, torch.Tensor)
            and isinstance(source, torch.Tensor)
            and value.dtype == source.dtype
        )
    return name in VIEWS


def is_constant(node: fx.Node) -> bool:
    """Whether the node makes a tensor out of no data."""
    return is_aten(node) and base_name(node) in CONSTANTS


def is_pointwise(node: fx.Node) -> bool:
    """Whether the node is memory-bound work that fuses with its neighbours: mathematics per element, norms, moves."""
    if not is_aten(node):
        return False
    name = base_name(node)
    return (
        torch.Tag.pointwise in node.target.tags
        or name in REDUCTIONS
        or name in MOVES
        or name in MATHEMATICS
        or name in CASTS
        or (name == "einsum" and not is_product(node))
    )


def is_position(node: fx.Node) -> bool:
    """Whether position and mask arithmetic may use this operator."""
    return (
        is_view(node)
        or is_constant(node)
        or is_pointwise(node)
        or (is_aten(node) and base_name(node) in POSITION_ONLY)
    )


def is_product(node: fx.Node) -> bool:
    """Whether the node is a matrix product: never free, whatever it multiplies."""
    if not is_aten(node) or base_name(node) not in PRODUCTS:
        return False
    if base_name(node) == "einsum":
        terms, _, result = node.args[0].replace(" ", "").partition("->")
        return bool(set(terms) - set(result) - {","})
    return all(len(a.meta["val"].shape) > 1 for a in node.args[:2])


def mutated(node: fx.Node) -> list[fx.Node]:
    """The arguments that the node writes in place."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
        return []
    schema = node.target._schema.arguments
    given = [*zip(schema, node.args, strict=False), *((a, node.kwargs.get(a.name)) for a in schema)]
    return [
        value
        for argument, value in given
        if argument.alias_info is not None
        and argument.alias_info.is_write
        and isinstance(value, fx.Node)
    ]
