"""Eight doubles at a time: vectors that compiled code can hold in registers.

States are few, so a compiler that vectorises loops finds nothing to gain in a loop over them.
Here a row of states is one vector (or several), and arithmetic on it is one instruction; the
machine's own width does not matter. Everything works on plain floats too.
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
_DOUBLE = ir.DoubleType()
_INTEGER = ir.IntType(64)
_VECTOR = ir.VectorType(_DOUBLE, WIDTH)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, _VECTOR)


def _constant(like: ir.Type, number: float) -> ir.Constant:
    """The number as a double or as a vector of it, an integer's bits likewise."""
    if isinstance(like, ir.VectorType):
        return ir.Constant(like, [number] * WIDTH)
    return ir.Constant(like, number)


def _integers(like: ir.Type) -> ir.Type:
    return ir.VectorType(_INTEGER, WIDTH) if isinstance(like, ir.VectorType) else _INTEGER


def _widened(builder: Any, value: Any) -> Any:
    if isinstance(value.type, ir.VectorType):
        return value
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.IntType(32)(0))
    places = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), places)


def _elementwise(emit: Callable[..., Any]) -> Any:
    """An operation on floats or lanes; a float among lanes stands for as many of itself."""

    def typed(*operands: types.Type) -> Any:
        wide = LANES in operands

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            if wide:
                values = [_widened(builder, value) for value in values]
            return emit(builder, *values)

        result = LANES if wide else types.float64
        return result(*(x if x is LANES or x == LANES else types.float64 for x in operands)), codegen

    return typed


def _is_number(*operands: types.Type) -> bool:
    return all(isinstance(x, Lanes | types.Number) for x in operands)


def _binary(emit):
    typed = _elementwise(emit)

    @intrinsic
    def operation(context, x, y):
        return typed(x, y)

    return operation


def _unary(emit):
    typed = _elementwise(emit)

    @intrinsic
    def operation(context, x):
        return typed(x)

    return operation


def _ternary(emit):
    typed = _elementwise(emit)

    @intrinsic
    def operation(context, x, y, z):
        return typed(x, y, z)

    return operation


def _overload(operation, implementation):
    @overload(operation)
    def arithmetic(x, y):
        if LANES in (x, y) and _is_number(x, y):
            return lambda x, y: implementation(x, y)
        return None


for _operation, _emit in (
    (operator.add, lambda builder, x, y: builder.fadd(x, y)),
    (operator.sub, lambda builder, x, y: builder.fsub(x, y)),
    (operator.mul, lambda builder, x, y: builder.fmul(x, y)),
    (operator.truediv, lambda builder, x, y: builder.fdiv(x, y)),
):
    _overload(_operation, _binary(_emit))


maximum = _binary(lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y))
minimum = _binary(lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y))

@intrinsic
def where_less(context, x, y, then, otherwise):
    """``then`` where x < y, else ``otherwise``."""
    typed = _elementwise(lambda b, x, y, then, otherwise: b.select(b.fcmp_ordered("<", x, y), then, otherwise))
    return typed(x, y, then, otherwise)


def _power_of_two(b, n):
    integers = _integers(n.type)
    n = b.fadd(n, _constant(n.type, 2.0**52 + 1023.0))
    bits = b.shl(b.bitcast(n, integers), _constant(integers, 52))
    return b.bitcast(bits, n.type)


def _size(b, x):
    integers = _integers(x.type)
    bits = b.lshr(b.bitcast(x, integers), _constant(integers, 52))
    bits = b.or_(bits, _constant(integers, 0x4330000000000000))
    return b.fsub(b.bitcast(bits, x.type), _constant(x.type, 2.0**52 + 1023.0))


def _mantissa(b, x):
    integers = _integers(x.type)
    bits = b.and_(b.bitcast(x, integers), _constant(integers, 0x000FFFFFFFFFFFFF))
    bits = b.or_(bits, _constant(integers, 0x3FF0000000000000))
    return b.bitcast(bits, x.type)


power_of_two = _unary(_power_of_two)
size_of = _unary(_size)
mantissa_of = _unary(_mantissa)


def _pointer(context, builder, kind, array, place):
    from numba.core.base import BaseContext
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [place]), _VECTOR.as_pointer())


@intrinsic
def load(typingcontext, array, place):
    """`WIDTH` numbers of a flat contiguous array, from ``place`` on."""
    def codegen(context, builder, signature, args):
        return builder.load(_pointer(context, builder, signature.args[0], *args), align=8)
    return LANES(array, types.intp), codegen


@intrinsic
def store(typingcontext, array, place, value):
    """Write lanes to a flat contiguous array, from ``place`` on."""
    def codegen(context, builder, signature, args):
        array, place, value = args
        builder.store(value, _pointer(context, builder, signature.args[0], array, place), align=8)
        return context.get_dummy_value()
    return types.void(array, types.intp, LANES), codegen


@intrinsic
def largest(typingcontext, x):
    """Largest of the lanes."""
    def codegen(context, builder, signature, args):
        (v,) = args
        for half in (4, 2, 1):
            mask = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [(i + half) % WIDTH for i in range(WIDTH)])
            other = builder.shuffle_vector(v, v, mask)
            v = builder.select(builder.fcmp_ordered(">", v, other), v, other)
        return builder.extract_element(v, ir.IntType(32)(0))
    return types.float64(LANES), codegen


@intrinsic
def spread(typingcontext, x):
    """Lanes that all hold x."""
    def codegen(context, builder, signature, args):
        return _widened(builder, args[0])
    return LANES(types.float64), codegen


@intrinsic
def gather(typingcontext, array, rows, k, width):
    """Lanes k.. of a flat array with ``width`` to a row, each from a row of its own."""

    def codegen(context, builder, signature, args):
        array, rows, k, width = args
        data = context.make_array(signature.args[0])(context, builder, array).data
        places = context.make_array(signature.args[1])(context, builder, rows).data
        lanes = ir.Constant(_VECTOR, ir.Undefined)
        for lane in range(WIDTH):
            state = builder.add(k, _INTEGER(lane))
            row = builder.load(builder.gep(places, [state]))
            place = builder.add(builder.mul(row, width), state)
            value = builder.load(builder.gep(data, [place]))
            lanes = builder.insert_element(lanes, value, ir.IntType(32)(lane))
        return lanes

    return LANES(array, rows, types.intp, types.intp), codegen


@intrinsic
def get(typingcontext, array, i, like):
    """Number i of a flat array, or lanes from it on, as ``like`` is a float or lanes."""

    def codegen(context, builder, signature, args):
        kind = signature.args[0]
        if signature.return_type == LANES:
            return builder.load(_pointer(context, builder, kind, *args[:2]), align=8)
        data = context.make_array(kind)(context, builder, args[0]).data
        return builder.load(builder.gep(data, [args[1]]))

    return like(array, types.intp, like), codegen


@intrinsic
def put(typingcontext, array, i, value):
    """Write a float or lanes to a flat array at i."""

    def codegen(context, builder, signature, args):
        kind = signature.args[0]
        array, i, value = args
        if signature.args[2] == LANES:
            builder.store(value, _pointer(context, builder, kind, array, i), align=8)
        else:
            data = context.make_array(kind)(context, builder, array).data
            builder.store(value, builder.gep(data, [i]))
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def constant(typingcontext, number, like):
    """A number as a float or as lanes of it, as ``like`` is."""

    def codegen(context, builder, signature, args):
        return _widened(builder, args[0]) if signature.return_type == LANES else args[0]

    return like(types.float64, like), codegen
