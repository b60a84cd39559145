"""Eight doubles at a time: vectors that compiled code holds in registers.

A compiler that vectorises loops finds nothing to gain in loops over a handful of states. So a row
of states is laid out as one vector, or several, and arithmetic on it is written as on a number.
What the machine's own vectors hold does not matter. Functions here take floats, too, and a float
among lanes stands for lanes of it. Those that take arrays are emitted in place, so that loops
around them count no references.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, overload, register_model

WIDTH = 8


class Lanes(types.Type):
    """Type of a vector of `WIDTH` doubles in compiled code."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


LANES = Lanes()

_INDEX = ir.IntType(32)
_INTEGER = ir.IntType(64)
_VECTOR = ir.VectorType(ir.DoubleType(), WIDTH)
_UNDEFINED = ir.Constant(_VECTOR, ir.Undefined)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, _VECTOR)


def _shuffle(places: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(_INDEX, WIDTH), places)


def _spread(builder: Any, value: Any) -> Any:
    """Lanes of a float; lanes as they are."""
    if value.type == _VECTOR:
        return value
    first = builder.insert_element(_UNDEFINED, value, _INDEX(0))
    return builder.shuffle_vector(first, _UNDEFINED, _shuffle([0] * WIDTH))


def _elementwise(arity: int, emit: Callable[..., Any]) -> Any:
    """Function of floats or lanes, from what it emits for values of one type."""

    def typed(*operands: types.Type) -> Any:
        wide = LANES in operands

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return emit(builder, *(_spread(builder, x) if wide else x for x in values))

        result = LANES if wide else types.float64
        return result(*(x if x == LANES else types.float64 for x in operands)), codegen

    # numba reads the number of arguments from the signature
    if arity == 1:
        return intrinsic(lambda context, x: typed(x))
    if arity == 2:
        return intrinsic(lambda context, x, y: typed(x, y))
    return intrinsic(lambda context, x, y, then, otherwise: typed(x, y, then, otherwise))


def _overload_operator(symbol: Callable[..., Any], emit: Callable[..., Any]) -> None:
    implementation = _elementwise(2, emit)

    def lanes_among(*operands: types.Type) -> bool:
        return LANES in operands and all(isinstance(x, Lanes | types.Number) for x in operands)

    # a lambda, since numba compares signatures, annotations included
    overload(symbol)(
        lambda x, y: (lambda x, y: implementation(x, y)) if lanes_among(x, y) else None
    )


_overload_operator(operator.add, lambda b, x, y: b.fadd(x, y))
_overload_operator(operator.sub, lambda b, x, y: b.fsub(x, y))
_overload_operator(operator.mul, lambda b, x, y: b.fmul(x, y))
_overload_operator(operator.truediv, lambda b, x, y: b.fdiv(x, y))

maximum = _elementwise(2, lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y))
minimum = _elementwise(2, lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y))
where_less = _elementwise(
    4, lambda b, x, y, then, otherwise: b.select(b.fcmp_ordered("<", x, y), then, otherwise)
)


def _integers(like: ir.Type) -> ir.Type:
    return ir.VectorType(_INTEGER, WIDTH) if like == _VECTOR else _INTEGER


def _constant(kind: ir.Type, number: float) -> ir.Constant:
    return ir.Constant(kind, [number] * WIDTH if isinstance(kind, ir.VectorType) else number)


# Bits of a double: sign, 11 of the exponent plus 1023, 52 of the mantissa without its leading one.
# Added to 2^52, a small whole number stands in the last bits.
_WHOLE = 2.0**52
_WHOLE_BITS = 0x4330000000000000
_MANTISSA_BITS = 0x000FFFFFFFFFFFFF
_ONE_BITS = 0x3FF0000000000000


def _power_of_two(b: Any, n: Any) -> Any:
    integers = _integers(n.type)
    bits = b.bitcast(b.fadd(n, _constant(n.type, _WHOLE + 1023.0)), integers)
    return b.bitcast(b.shl(bits, _constant(integers, 52)), n.type)


def _size_of(b: Any, x: Any) -> Any:
    integers = _integers(x.type)
    bits = b.lshr(b.bitcast(x, integers), _constant(integers, 52))
    whole = b.bitcast(b.or_(bits, _constant(integers, _WHOLE_BITS)), x.type)
    return b.fsub(whole, _constant(x.type, _WHOLE + 1023.0))


def _mantissa_of(b: Any, x: Any) -> Any:
    integers = _integers(x.type)
    bits = b.and_(b.bitcast(x, integers), _constant(integers, _MANTISSA_BITS))
    return b.bitcast(b.or_(bits, _constant(integers, _ONE_BITS)), x.type)


power_of_two = _elementwise(1, _power_of_two)  # of a whole number from -1022 to 1023
size_of = _elementwise(1, _size_of)  # exponent of a positive number that is not subnormal
mantissa_of = _elementwise(1, _mantissa_of)  # the same number's mantissa, in [1, 2)


def _data(context: Any, builder: Any, kind: types.Array, array: Any) -> Any:
    return context.make_array(kind)(context, builder, array).data


def _place(context: Any, builder: Any, kind: types.Array, array: Any, i: Any) -> Any:
    place = builder.gep(_data(context, builder, kind, array), [i])
    return builder.bitcast(place, _VECTOR.as_pointer())


@intrinsic
def load(typingcontext: Any, array: types.Array, i: types.Type) -> Any:
    """Lanes of a flat contiguous array, from number i on."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_place(context, builder, signature.args[0], *values), align=8)

    return LANES(array, types.intp), codegen


@intrinsic
def store(typingcontext: Any, array: types.Array, i: types.Type, lanes: types.Type) -> Any:
    """Write lanes to a flat contiguous array, from number i on."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array, i, lanes = values
        builder.store(lanes, _place(context, builder, signature.args[0], array, i), align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, LANES), codegen


@intrinsic
def gather(
    typingcontext: Any, array: types.Array, rows: types.Array, k: types.Type, width: types.Type
) -> Any:
    """Lanes k.. of a flat array with ``width`` numbers to a row, each from a row of its own."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array, rows, k, width = values
        numbers = _data(context, builder, signature.args[0], array)
        places = _data(context, builder, signature.args[1], rows)
        lanes = _UNDEFINED
        for lane in range(WIDTH):
            column = builder.add(k, _INTEGER(lane))
            row = builder.load(builder.gep(places, [column]))
            place = builder.add(builder.mul(row, width), column)
            number = builder.load(builder.gep(numbers, [place]))
            lanes = builder.insert_element(lanes, number, _INDEX(lane))
        return lanes

    return LANES(array, rows, types.intp, types.intp), codegen


@intrinsic
def get(typingcontext: Any, array: types.Array, i: types.Type, like: types.Type) -> Any:
    """Number i of a flat array, or lanes from it on, as ``like`` is a float or lanes."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = signature.args[0]
        if signature.return_type == LANES:
            return builder.load(_place(context, builder, kind, *values[:2]), align=8)
        return builder.load(builder.gep(_data(context, builder, kind, values[0]), [values[1]]))

    return like(array, types.intp, like), codegen


@intrinsic
def put(typingcontext: Any, array: types.Array, i: types.Type, value: types.Type) -> Any:
    """Write a float or lanes to a flat array at i."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = signature.args[0]
        array, i, value = values
        if signature.args[2] == LANES:
            builder.store(value, _place(context, builder, kind, array, i), align=8)
        else:
            builder.store(value, builder.gep(_data(context, builder, kind, array), [i]))
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def spread(typingcontext: Any, x: types.Type) -> Any:
    """Lanes of a float."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _spread(builder, values[0])

    return LANES(types.float64), codegen


@intrinsic
def constant(typingcontext: Any, number: types.Type, like: types.Type) -> Any:
    """A float as it is or as lanes of it, as ``like`` is a float or lanes."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _spread(builder, values[0]) if signature.return_type == LANES else values[0]

    return like(types.float64, like), codegen


@intrinsic
def largest(typingcontext: Any, lanes: types.Type) -> Any:
    """Largest of the lanes."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        (x,) = values
        for half in (4, 2, 1):
            turned = _shuffle([(lane + half) % WIDTH for lane in range(WIDTH)])
            y = builder.shuffle_vector(x, x, turned)
            x = builder.select(builder.fcmp_ordered(">", x, y), x, y)
        return builder.extract_element(x, _INDEX(0))

    return types.float64(LANES), codegen
