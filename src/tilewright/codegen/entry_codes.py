"""The text of the entry point's three interpreters: `take`, `give` and `make`.

Knows how arguments are checked, how memory for results is found and how trees are built, following
the codes of `codegen.entry_tables`. Refuses to know calls: counts, names, who runs the program.
"""

from __future__ import annotations

from typing import Final

from tilewright.codegen.entry_tables import (
    CONTEXT,
    Give,
    Layout,
    Make,
    Take,
    at,
    cases,
    field,
    word,
)

READABLE: Final = 0x101
"""NumPy's flags C_CONTIGUOUS and ALIGNED."""

SHORT: Final = 6
"""Words of an operation of `take` without a tail."""

ARRAY: Final = 10
"""Words of `give`'s operation for arrays before dims and strides."""
LARGE: Final = 10
"""Words of its operation for large arrays before dims."""
CARRAY: Final = 0x0501
"""NumPy's flags of an array that is contiguous in C order, aligned and writeable."""


def print_codes(layout: Layout) -> str:
    """The functions @take, @give and @make with what they need, as LLVM IR."""
    take = (_elements(layout), _take(layout))
    give = (_free(layout), _MADE, _array(layout), _BLOCK, _large(layout), _give(layout))
    return "\n".join((_SMALL, *take, *give, _FETCH, _make(layout)))


_SMALL = f"""
; Whether n words are the same.
define internal i1 @same(ptr %a, ptr %b, i64 %n) {{
entry:
  %none = icmp eq i64 %n, 0
  br i1 %none, label %yes, label %look
look:
  %i = phi i64 [ 0, %entry ], [ %next, %more ]
{word("%x", "%a", "%i")}
{word("%y", "%b", "%i")}
  %equal = icmp eq i64 %x, %y
  br i1 %equal, label %more, label %no
more:
  %next = add i64 %i, 1
  %end = icmp eq i64 %next, %n
  br i1 %end, label %yes, label %look
yes:
  ret i1 true
no:
  ret i1 false
}}

; Put a reference on a list of those to give up later; its first word counts them.
define internal void @push(ptr %held, ptr %x) {{
  %n = load i64, ptr %held
  %more = add i64 %n, 1
  store i64 %more, ptr %held
  %place = getelementptr ptr, ptr %held, i64 %more
  store ptr %x, ptr %place
  ret void
}}

; Give up the references in n words, of which some may be null.
define internal void @drop(ptr %list, i64 %n) {{
entry:
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %more, %done ]
  %end = icmp eq i64 %i, %n
  br i1 %end, label %out, label %look
look:
{word("%x", "%list", "%i", "ptr")}
  %null = icmp eq ptr %x, null
  br i1 %null, label %done, label %give
give:
  call void @Py_DecRef(ptr %x)
  br label %done
done:
  %more = add i64 %i, 1
  br label %next
out:
  ret void
}}
"""


# -- arguments -----------------------------------------------------------------------------------


def _elements(layout: Layout) -> str:
    return f"""
; The address of an array's elements if it is as an ARRAY operation says, else null.
define internal ptr @elements(ptr %o, ptr %op, i64 %n) {{
entry:
{at("%descr", "%o", layout.array("descr"))}
{word("%wanted", "%op", 5, "ptr")}
  %d = icmp eq ptr %descr, %wanted
{at("%flags", "%o", layout.array("flags"), "i32")}
  %readable = and i32 %flags, {READABLE}
  %f = icmp eq i32 %readable, {READABLE}
{at("%axes", "%o", layout.array("nd"), "i32")}
  %nd = sext i32 %axes to i64
  %a = icmp eq i64 %nd, %n
  %df = and i1 %d, %f
  %dfa = and i1 %df, %a
  br i1 %dfa, label %shape, label %no
shape:
{at("%dims", "%o", layout.array("dims"))}
  %extents = getelementptr i64, ptr %op, i64 6
  %same = call i1 @same(ptr %dims, ptr %extents, i64 %n)
{at("%data", "%o", layout.array("data"))}
  %found = select i1 %same, ptr %data, ptr null
  ret ptr %found
no:
  ret ptr null
}}"""


def _take(layout: Layout) -> str:
    return f"""
; Whether the arguments are as the code says. No Python code runs here but that of attributes.
define internal i1 @take(ptr %code, ptr %values, ptr %pointers, ptr %scratch, ptr %held, \
i64 %hold) {{
entry:
  %overflow = alloca i32
  %position = alloca i64
  %key = alloca ptr
  %value = alloca ptr
  br label %next
next:
  %op = phi ptr [ %code, %entry ], [ %after, %short ], [ %after.dict, %dict.end ],
                [ %after.fields, %fields.end ], [ %after.array, %array.found ]
  %kind = load i64, ptr %op
  %finished = icmp eq i64 %kind, {Take.DONE}
  br i1 %finished, label %done, label %look
look:
{word("%source", "%op", 1)}
{word("%o", "%values", "%source", "ptr")}
{at("%type", "%o", layout.type)}
{word("%wanted", "%op", 3, "ptr")}
  %identity = icmp eq i64 %kind, {Take.IS}
  %seen = select i1 %identity, ptr %o, ptr %type
  %fits = icmp eq ptr %seen, %wanted
  br i1 %fits, label %known, label %no
known:
{word("%destination", "%op", 2)}
  %into = getelementptr ptr, ptr %values, i64 %destination
  %pointer = getelementptr ptr, ptr %pointers, i64 %destination
{word("%n", "%op", 4)}
  %tail = getelementptr i64, ptr %op, i64 5
  %slot = getelementptr i128, ptr %scratch, i64 %n
  switch i64 %kind, label %no [{cases(Take)}]

tuple:
{at("%tuple.size", "%o", layout.size, "i64")}
  %tuple.items = getelementptr i8, ptr %o, i64 {layout.tuple_items}
  br label %items
list:
{at("%list.size", "%o", layout.size, "i64")}
{at("%list.items", "%o", layout.list_items)}
  br label %items
items:
  %size = phi i64 [ %tuple.size, %tuple ], [ %list.size, %list ]
  %from = phi ptr [ %tuple.items, %tuple ], [ %list.items, %list ]
  %mutable = phi i64 [ 0, %tuple ], [ %hold, %list ]
  %keep = icmp ne i64 %mutable, 0
  %as.many = icmp eq i64 %size, %n
  br i1 %as.many, label %item, label %no
item:
  %i = phi i64 [ 0, %items ], [ %i.next, %item.done ]
  %i.end = icmp eq i64 %i, %n
  br i1 %i.end, label %short, label %item.copy
item.copy:
{word("%x", "%from", "%i", "ptr")}
  %x.into = getelementptr ptr, ptr %into, i64 %i
  store ptr %x, ptr %x.into
  br i1 %keep, label %item.keep, label %item.done
item.keep:
  call void @Py_IncRef(ptr %x)
  call void @push(ptr %held, ptr %x)
  br label %item.done
item.done:
  %i.next = add i64 %i, 1
  br label %item
{_TAKE_DICT.replace("{type}", str(layout.type))}
is:
  br label %short
array:
  %data = call ptr @elements(ptr %o, ptr %op, i64 %n)
  %missing = icmp eq ptr %data, null
  br i1 %missing, label %no, label %array.found
array.found:
  store ptr %data, ptr %pointer
  %array.words = add i64 %n, 6
  %after.array = getelementptr i64, ptr %op, i64 %array.words
  br label %next
number:
  %inside = getelementptr i8, ptr %o, i64 {layout.head}
  store ptr %inside, ptr %pointer
  br label %short
int:
  %int.value = call i64 @PyLong_AsLongLongAndOverflow(ptr %o, ptr %overflow)
  %too.wide = load i32, ptr %overflow
  %narrow = icmp eq i32 %too.wide, 0
  store i64 %int.value, ptr %slot
  store ptr %slot, ptr %pointer
  br i1 %narrow, label %short, label %no
bool:
{word("%true", "%tail", 0, "ptr")}
  %is.true = icmp eq ptr %o, %true
  %truth = zext i1 %is.true to i8
  store i8 %truth, ptr %slot
  store ptr %slot, ptr %pointer
  br label %short

; Operations have {SHORT} words at least.
short:
  %after = getelementptr i64, ptr %op, i64 {SHORT}
  br label %next
done:
  ret i1 true
no:
  ret i1 false
}}"""


_TAKE_DICT = f"""
dict:
  %entries = call i64 @PyDict_Size(ptr %o)
  %dict.fits = icmp eq i64 %entries, %n
  store i64 0, ptr %position
  br i1 %dict.fits, label %entry.next, label %no
entry.next:
  %e = phi i64 [ 0, %dict ], [ %e.next, %entry.done ]
  %e.end = icmp eq i64 %e, %n
  br i1 %e.end, label %dict.end, label %entry.look
entry.look:
  %more = call i32 @PyDict_Next(ptr %o, ptr %position, ptr %key, ptr %value)
  %k = load ptr, ptr %key
{word("%k.wanted", "%tail", "%e", "ptr")}
  %k.same = icmp eq ptr %k, %k.wanted
  br i1 %k.same, label %entry.found, label %entry.compare
; Keys are strings and numbers, so comparing those of one type runs no code of the user's.
entry.compare:
{at("%k.type", "%k", 0).replace("i64 0", "i64 {type}")}
{at("%k.wanted.type", "%k.wanted", 0).replace("i64 0", "i64 {type}")}
  %k.types = icmp eq ptr %k.type, %k.wanted.type
  br i1 %k.types, label %entry.equal, label %no
entry.equal:
  %k.equal = call i32 @PyObject_RichCompareBool(ptr %k, ptr %k.wanted, i32 2)
  %k.fits = icmp eq i32 %k.equal, 1
  br i1 %k.fits, label %entry.found, label %no
entry.found:
  %v = load ptr, ptr %value
  %v.into = getelementptr ptr, ptr %into, i64 %e
  store ptr %v, ptr %v.into
  %v.keep = icmp ne i64 %hold, 0
  br i1 %v.keep, label %entry.keep, label %entry.done
entry.keep:
  call void @Py_IncRef(ptr %v)
  call void @push(ptr %held, ptr %v)
  br label %entry.done
entry.done:
  %e.next = add i64 %e, 1
  br label %entry.next
dict.end:
  %dict.words = add i64 %n, {SHORT}
  %after.dict = getelementptr i64, ptr %op, i64 %dict.words
  br label %next

fields:
  %f = phi i64 [ 0, %known ], [ %f.next, %field.found ]
  %f.end = icmp eq i64 %f, %n
  br i1 %f.end, label %fields.end, label %field
field:
{word("%name", "%tail", "%f", "ptr")}
  %a = call ptr @PyObject_GetAttr(ptr %o, ptr %name)
  %a.missing = icmp eq ptr %a, null
  br i1 %a.missing, label %field.missing, label %field.found
field.missing:
  call void @PyErr_Clear()
  br label %no
field.found:
  %a.into = getelementptr ptr, ptr %into, i64 %f
  store ptr %a, ptr %a.into
  call void @push(ptr %held, ptr %a)
  %f.next = add i64 %f, 1
  br label %fields
fields.end:
  %fields.words = add i64 %n, {SHORT}
  %after.fields = getelementptr i64, ptr %op, i64 %fields.words
  br label %next
"""


# -- results -------------------------------------------------------------------------------------


def _free(layout: Layout) -> str:
    return f"""
; Whether nobody but us holds an earlier result, and it is still as it was made.
define internal i1 @free(ptr %o, ptr %op, i64 %n) {{
entry:
  %count = load i32, ptr %o
{word("%ours", "%op", 7, "i32")}
  %alone = icmp eq i32 %count, %ours
  br i1 %alone, label %array, label %no
array:
{at("%descr", "%o", layout.array("descr"))}
{word("%wanted", "%op", 4, "ptr")}
  %d = icmp eq ptr %descr, %wanted
{at("%flags", "%o", layout.array("flags"), "i32")}
{word("%flags.wanted", "%op", 5, "i32")}
  %f = icmp eq i32 %flags, %flags.wanted
{at("%axes", "%o", layout.array("nd"), "i32")}
  %nd = sext i32 %axes to i64
  %a = icmp eq i64 %nd, %n
{at("%base", "%o", layout.array("base"))}
  %b = icmp eq ptr %base, null
{at("%weak", "%o", layout.array("weak"))}
  %w = icmp eq ptr %weak, null
{at("%dims", "%o", layout.array("dims"))}
{at("%strides", "%o", layout.array("strides"))}
  %behind = getelementptr i64, ptr %dims, i64 %n
  %s = icmp eq ptr %strides, %behind
  %df = and i1 %d, %f
  %ab = and i1 %a, %b
  %ws = and i1 %w, %s
  %dfab = and i1 %df, %ab
  %all = and i1 %dfab, %ws
  br i1 %all, label %shape, label %no
shape:
  %shape.wanted = getelementptr i64, ptr %op, i64 {ARRAY}
  %words = shl i64 %n, 1
  %same = call i1 @same(ptr %dims, ptr %shape.wanted, i64 %words)
  ret i1 %same
no:
  ret i1 false
}}"""


_MADE = f"""
; A NumPy array of the operation's descriptor: at `data`, with these flags, or of memory of its own.
define internal ptr @made(ptr %op, ptr %context, i64 %n, ptr %dims, ptr %data, i32 %flags) {{
{word("%descr", "%op", 4, "ptr")}
{field("new_array", "%context", "ptr", CONTEXT)}
{field("array_type", "%context", "ptr", CONTEXT)}
  call void @Py_IncRef(ptr %descr)
  %axes = trunc i64 %n to i32
  %new = call ptr %new_array(ptr %array_type, ptr %descr, i32 %axes, ptr %dims, ptr null,
                             ptr %data, i32 %flags, ptr null)
  ret ptr %new
}}
"""


def _array(layout: Layout) -> str:
    return f"""
; A new array, or one of the last two results of this place that nobody holds any more.
define internal ptr @array(ptr %op, ptr %context, i64 %n) {{
entry:
{word("%earlier", "%op", 6, "ptr")}
{field("none", "%context", "ptr", CONTEXT)}
  %lone = icmp eq ptr %earlier, null
  br i1 %lone, label %fresh, label %reuse
reuse:
{at("%kept", "%earlier", layout.list_items)}
{word("%first", "%kept", 0, "ptr")}
  %first.made = icmp ne ptr %first, %none
  br i1 %first.made, label %look, label %fresh
look:
{word("%second", "%kept", 1, "ptr")}
  %first.free = call i1 @free(ptr %first, ptr %op, i64 %n)
  br i1 %first.free, label %take, label %other
other:
  %second.made = icmp ne ptr %second, %none
  br i1 %second.made, label %try, label %fresh
try:
  %second.free = call i1 @free(ptr %second, ptr %op, i64 %n)
  br i1 %second.free, label %take, label %fresh
take:
  %old = phi ptr [ %first, %look ], [ %second, %try ]
  call void @Py_IncRef(ptr %old)
  ret ptr %old
fresh:
  %dims = getelementptr i64, ptr %op, i64 {ARRAY}
  %new = call ptr @made(ptr %op, ptr %context, i64 %n, ptr %dims, ptr null, i32 0)
  %failed = icmp eq ptr %new, null
  %unkept = or i1 %lone, %failed
  br i1 %unkept, label %out, label %remember
remember:
  %remembered = call i1 @remember(ptr %op, ptr %earlier, ptr %new, ptr %none)
  br i1 %remembered, label %out, label %lost
lost:
  call void @Py_DecRef(ptr %new)
  ret ptr null
out:
  ret ptr %new
}}

; The newer of the earlier arrays becomes the older, and this one the newer; so in the templates,
; which must hold what the list holds, or `count` would be wrong: if they cannot, neither does.
define internal i1 @remember(ptr %op, ptr %earlier, ptr %new, ptr %none) {{
entry:
{at("%kept", "%earlier", layout.list_items)}
{word("%first", "%kept", 0, "ptr")}
{word("%second", "%kept", 1, "ptr")}
{word("%templates", "%op", 8, "ptr")}
{word("%key", "%op", 9, "ptr")}
  %plain = icmp eq ptr %templates, null
  br i1 %plain, label %keep, label %dicts
dicts:
{at("%pair", "%templates", layout.list_items)}
{word("%newer", "%pair", 0, "ptr")}
{word("%older", "%pair", 1, "ptr")}
  %put.older = call i32 @PyDict_SetItem(ptr %older, ptr %key, ptr %first)
  %put.newer = call i32 @PyDict_SetItem(ptr %newer, ptr %key, ptr %new)
  %put = or i32 %put.older, %put.newer
  %failed = icmp ne i32 %put, 0
  br i1 %failed, label %forget, label %keep
forget:
  call void @Py_IncRef(ptr %none)
  call void @Py_IncRef(ptr %none)
  store ptr %none, ptr %first.at
  store ptr %none, ptr %second.at
  call void @Py_DecRef(ptr %first)
  call void @Py_DecRef(ptr %second)
  ret i1 false
keep:
  call void @Py_IncRef(ptr %new)
  store ptr %new, ptr %first.at
  store ptr %first, ptr %second.at
  call void @Py_DecRef(ptr %second)
  ret i1 true
}}"""


_BLOCK = f"""
; A kept block that nobody uses: one of the last two of this place (`last`), or Python's choice for
; so many bytes, which is None if no more can be kept. Null: an exception is set. Blocks that are
; kept have two references which nobody gives up, so their addresses need none of their own.
define internal ptr @kept(ptr %last, ptr %bytes, ptr %context) {{
entry:
{word("%newer", "%last", 0, "ptr")}
{word("%older", "%last", 1, "ptr")}
  %newer.idle = call i1 @idle(ptr %newer)
  br i1 %newer.idle, label %take, label %other
other:
  %older.idle = call i1 @idle(ptr %older)
  br i1 %older.idle, label %take, label %ask
take:
  %idle = phi ptr [ %newer, %entry ], [ %older, %other ]
  call void @Py_IncRef(ptr %idle)
  ret ptr %idle
ask:
{field("recycled", "%context", "ptr", CONTEXT)}
{field("none", "%context", "ptr", CONTEXT)}
  %found = call ptr @PyObject_Vectorcall(ptr %recycled, ptr %bytes, i64 1, ptr null)
  %failed = icmp eq ptr %found, null
  %full = icmp eq ptr %found, %none
  %neither = or i1 %failed, %full
  br i1 %neither, label %out, label %remember
remember:
  store ptr %found, ptr %newer.at
  store ptr %newer, ptr %older.at
  br label %out
out:
  ret ptr %found
}}

define internal i1 @idle(ptr %block) {{
entry:
  %none = icmp eq ptr %block, null
  br i1 %none, label %no, label %look
look:
  %count = load i32, ptr %block
  %alone = icmp eq i32 %count, 2
  ret i1 %alone
no:
  ret i1 false
}}
"""


def _large(layout: Layout) -> str:
    return f"""
; Where a block's first page begins.
define internal ptr @page(ptr %block, ptr %context) {{
{at("%data", "%block", layout.array("data"))}
{field("page", "%context", "i64", CONTEXT)}
  %first = ptrtoint ptr %data to i64
  %mask = sub i64 %page, 1
  %behind = add i64 %first, %mask
  %begins = sub i64 0, %page
  %start = and i64 %behind, %begins
  %there = inttoptr i64 %start to ptr
  ret ptr %there
}}

; A large array: a view of a block.
define internal ptr @large(ptr %op, ptr %context, i64 %n) {{
entry:
  %last = getelementptr i64, ptr %op, i64 5
  %arguments = getelementptr i64, ptr %op, i64 7
  %bytes = getelementptr i64, ptr %op, i64 9
  %block = call ptr @kept(ptr %last, ptr %bytes, ptr %context)
  %failed = icmp eq ptr %block, null
  br i1 %failed, label %no, label %found
found:
{field("none", "%context", "ptr", CONTEXT)}
  %full = icmp eq ptr %block, %none
  br i1 %full, label %once, label %view
once:
  call void @Py_DecRef(ptr %block)
{field("empty", "%context", "ptr", CONTEXT)}
  %made = call ptr @PyObject_Vectorcall(ptr %empty, ptr %arguments, i64 3, ptr null)
  ret ptr %made
view:
  %start = call ptr @page(ptr %block, ptr %context)
  %dims = getelementptr i64, ptr %op, i64 {LARGE}
  %new = call ptr @made(ptr %op, ptr %context, i64 %n, ptr %dims, ptr %start, i32 {CARRAY})
  %lost = icmp eq ptr %new, null
  br i1 %lost, label %unused, label %out
unused:
  call void @Py_DecRef(ptr %block)
  br label %no
out:
{at("%base", "%new", layout.array("base"))}
  store ptr %block, ptr %base.at
  ret ptr %new
no:
  ret ptr null
}}"""


def _give(layout: Layout) -> str:
    return f"""
; Memory for what the program writes. False: an exception is set.
define internal i1 @give(ptr %code, ptr %context, ptr %results, ptr %pointers, ptr %slots) {{
entry:
  br label %next
next:
  %op = phi ptr [ %code, %entry ], [ %after.array, %array.made ], [ %after, %scratch ],
                [ %after.large, %large.made ]
  %kind = load i64, ptr %op
{word("%register", "%op", 1)}
{word("%place", "%op", 2)}
{word("%n", "%op", 3)}
  %result = getelementptr ptr, ptr %results, i64 %register
  %pointer = getelementptr ptr, ptr %pointers, i64 %place
  switch i64 %kind, label %done [{cases(Give)}]
array:
  %new = call ptr @array(ptr %op, ptr %context, i64 %n)
  %new.failed = icmp eq ptr %new, null
  br i1 %new.failed, label %no, label %array.made
array.made:
  store ptr %new, ptr %result
{at("%data", "%new", layout.array("data"))}
  store ptr %data, ptr %pointer
  %words = shl i64 %n, 1
  %array.words = add i64 %words, {ARRAY}
  %after.array = getelementptr i64, ptr %op, i64 %array.words
  br label %next
scratch:
  %slot = getelementptr i128, ptr %slots, i64 %n
  store ptr %slot, ptr %pointer
  %after = getelementptr i64, ptr %op, i64 4
  br label %next
large:
  %view = call ptr @large(ptr %op, ptr %context, i64 %n)
  %view.failed = icmp eq ptr %view, null
  br i1 %view.failed, label %no, label %large.made
large.made:
  store ptr %view, ptr %result
{at("%view.data", "%view", layout.array("data"))}
  store ptr %view.data, ptr %pointer
  %large.words = add i64 %n, {LARGE}
  %after.large = getelementptr i64, ptr %op, i64 %large.words
  br label %next
done:
  ret i1 true
no:
  ret i1 false
}}"""


_FETCH = f"""
; A source of a MAKE operation: a reference of its own, taken out of the register or made.
define internal ptr @fetch(ptr %results, ptr %operand) {{
entry:
  %source = load i64, ptr %operand
  %register = lshr i64 %source, 1
{word("%x", "%results", "%register", "ptr")}
  %again = and i64 %source, 1
  %needed = icmp ne i64 %again, 0
  br i1 %needed, label %share, label %move
share:
  call void @Py_IncRef(ptr %x)
  ret ptr %x
move:
  store ptr null, ptr %x.at
  ret ptr %x
}}"""


def _make(layout: Layout) -> str:
    return f"""
; Build the result's tree. False: an exception is set. `values` is free for arguments of calls.
define internal i1 @make(ptr %code, ptr %context, ptr %results, ptr %scratch, ptr %values) {{
entry:
  br label %next
next:
  %op = phi ptr [ %code, %entry ], [ %after.short, %short ], [ %after.items, %items.end ],
                [ %after.entries, %entries.end ], [ %after.fields, %fields.end ]
  %kind = load i64, ptr %op
{word("%register", "%op", 1)}
{word("%n", "%op", 2)}
{word("%x", "%op", 3, "ptr")}
  %result = getelementptr ptr, ptr %results, i64 %register
  %operands = getelementptr i64, ptr %op, i64 4
  %item.words = add i64 %n, 4
  %after.items = getelementptr i64, ptr %op, i64 %item.words
  switch i64 %kind, label %done [{cases(Make)}]
scalar:
  %slot = getelementptr i128, ptr %scratch, i64 %n
{field("new_scalar", "%context", "ptr", CONTEXT)}
  %number = call ptr %new_scalar(ptr %slot, ptr %x, ptr null)
  store ptr %number, ptr %result
  %number.failed = icmp eq ptr %number, null
  br i1 %number.failed, label %no, label %short
object:
  call void @Py_IncRef(ptr %x)
  store ptr %x, ptr %result
  br label %short
short:
  %after.short = getelementptr i64, ptr %op, i64 4
  br label %next

tuple:
  %t = call ptr @PyTuple_New(i64 %n)
  store ptr %t, ptr %result
  %t.failed = icmp eq ptr %t, null
  %t.items = getelementptr i8, ptr %t, i64 {layout.tuple_items}
  br i1 %t.failed, label %no, label %items
list:
  %l = call ptr @PyList_New(i64 %n)
  store ptr %l, ptr %result
  %l.failed = icmp eq ptr %l, null
  br i1 %l.failed, label %no, label %list.made
list.made:
{at("%l.items", "%l", layout.list_items)}
  br label %items
call:
  br label %items
items:
  %into = phi ptr [ %t.items, %tuple ], [ %l.items, %list.made ], [ %values, %call ]
  br label %item
item:
  %i = phi i64 [ 0, %items ], [ %i.next, %item.copy ]
  %i.end = icmp eq i64 %i, %n
  br i1 %i.end, label %items.done, label %item.copy
item.copy:
  %i.operand = getelementptr i64, ptr %operands, i64 %i
  %i.value = call ptr @fetch(ptr %results, ptr %i.operand)
  %i.place = getelementptr ptr, ptr %into, i64 %i
  store ptr %i.value, ptr %i.place
  %i.next = add i64 %i, 1
  br label %item
items.done:
  %calls = icmp eq i64 %kind, {Make.CALL}
  br i1 %calls, label %called, label %items.end
called:
  %made = call ptr @PyObject_Vectorcall(ptr %x, ptr %values, i64 %n, ptr null)
  store ptr %made, ptr %result
  call void @drop(ptr %values, i64 %n)
  %made.failed = icmp eq ptr %made, null
  br i1 %made.failed, label %no, label %items.end
items.end:
  br label %next

dict:
  %empty = icmp eq i64 %n, 0
{at("%templates", "%x", layout.list_items)}
  br i1 %empty, label %dict.newer, label %dict.lead
; The template to copy is the one that has the first value already, if any does.
dict.lead:
{word("%lead.kept", "%operands", 2, "ptr")}
  %lead.free = icmp eq ptr %lead.kept, null
  br i1 %lead.free, label %dict.newer, label %dict.which
dict.which:
{at("%lead.pair", "%lead.kept", layout.list_items)}
{word("%lead.older", "%lead.pair", 1, "ptr")}
{word("%lead.source", "%operands", 1)}
  %lead.register = lshr i64 %lead.source, 1
{word("%lead", "%results", "%lead.register", "ptr")}
  %is.older = icmp eq ptr %lead, %lead.older
  %which = zext i1 %is.older to i64
  br label %dict.copy
dict.newer:
  br label %dict.copy
dict.copy:
  %side = phi i64 [ %which, %dict.which ], [ 0, %dict.newer ]
{word("%template", "%templates", "%side", "ptr")}
  %d = call ptr @PyDict_Copy(ptr %template)
  store ptr %d, ptr %result
  %d.failed = icmp eq ptr %d, null
  br i1 %d.failed, label %no, label %entry.next
entry.next:
  %e = phi i64 [ 0, %dict.copy ], [ %e.next, %entry.done ]
  %e.end = icmp eq i64 %e, %n
  br i1 %e.end, label %entries.end, label %entry.look
entry.look:
  %e.words = mul i64 %e, 3
  %e.operands = getelementptr i64, ptr %operands, i64 %e.words
{word("%e.key", "%e.operands", 0, "ptr")}
{word("%e.kept", "%e.operands", 2, "ptr")}
  %e.operand = getelementptr i64, ptr %e.operands, i64 1
  %e.value = call ptr @fetch(ptr %results, ptr %e.operand)
  %e.free = icmp eq ptr %e.kept, null
  br i1 %e.free, label %entry.put, label %entry.compare
entry.compare:
{at("%e.pair", "%e.kept", layout.list_items)}
{word("%e.there", "%e.pair", "%side", "ptr")}
  %e.same = icmp eq ptr %e.there, %e.value
  br i1 %e.same, label %entry.done, label %entry.put
entry.put:
  %e.put = call i32 @PyDict_SetItem(ptr %d, ptr %e.key, ptr %e.value)
  br label %entry.done
entry.done:
  %e.failed = phi i32 [ 0, %entry.compare ], [ %e.put, %entry.put ]
  call void @Py_DecRef(ptr %e.value)
  %e.next = add i64 %e, 1
  %e.well = icmp eq i32 %e.failed, 0
  br i1 %e.well, label %entry.next, label %no
entries.end:
  %e.all = mul i64 %n, 3
  %entry.words = add i64 %e.all, 4
  %after.entries = getelementptr i64, ptr %op, i64 %entry.words
  br label %next

fields:
{field("new_object", "%context", "ptr", CONTEXT)}
{field("nothing", "%context", "ptr", CONTEXT)}
  %o = call ptr %new_object(ptr %x, ptr %nothing, ptr null)
  store ptr %o, ptr %result
  %o.failed = icmp eq ptr %o, null
  br i1 %o.failed, label %no, label %field
field:
  %f = phi i64 [ 0, %fields ], [ %f.next, %field.put ]
  %f.end = icmp eq i64 %f, %n
  br i1 %f.end, label %fields.end, label %field.put
field.put:
  %f.words = shl i64 %f, 1
  %f.source = or i64 %f.words, 1
{word("%f.name", "%operands", "%f.words", "ptr")}
  %f.operand = getelementptr i64, ptr %operands, i64 %f.source
  %f.value = call ptr @fetch(ptr %results, ptr %f.operand)
  %f.put = call i32 @PyObject_GenericSetAttr(ptr %o, ptr %f.name, ptr %f.value)
  call void @Py_DecRef(ptr %f.value)
  %f.next = add i64 %f, 1
  %f.well = icmp eq i32 %f.put, 0
  br i1 %f.well, label %field, label %no
fields.end:
  %field.pairs = shl i64 %n, 1
  %field.words = add i64 %field.pairs, 4
  %after.fields = getelementptr i64, ptr %op, i64 %field.words
  br label %next
done:
  ret i1 true
no:
  ret i1 false
}}"""
