"""The text of the native entry point: how a call of a compiled function reaches its program.

Knows the calling convention (CPython's vectorcall), how one signature after the other is tried,
and what happens around a program: references, planned memory, other threads. Refuses to know where
tables come from (`runtime.dispatch`).

One piece of code serves all signatures, since a signature is a table (`codegen.entry_tables`): a
new one costs no machine code.

Reference: PEP 590 (vectorcall), https://peps.python.org/pep-0590/.
"""

from __future__ import annotations

from typing import Final

from tilewright.codegen.entry_codes import print_codes
from tilewright.codegen.entry_tables import CONTEXT, SNAPSHOT, Layout, at, field, word

ENTRY: Final = "tilewright_call"
"""The name of the module's one external function."""

MISMATCH: Final = "inttoptr (i64 1 to ptr)"
"""What an attempt returns if the call is not of its signature: no object is there."""


def print_entry(layout: Layout) -> str:
    """The module, as LLVM IR. It holds no addresses: one object serves every process."""
    around = (_keywords(layout), _RUN, _RELEASE, _attempt(layout), _FALLBACK, _call(layout))
    return "\n".join((_DECLARATIONS, print_codes(layout), *around)) + "\n"


_DECLARATIONS = """\
declare void @Py_IncRef(ptr)
declare void @Py_DecRef(ptr)
declare ptr @PyTuple_New(i64)
declare ptr @PyList_New(i64)
declare ptr @PyDict_Copy(ptr)
declare i64 @PyDict_Size(ptr)
declare i32 @PyDict_Next(ptr, ptr, ptr, ptr)
declare i32 @PyDict_SetItem(ptr, ptr, ptr)
declare i32 @PyObject_RichCompareBool(ptr, ptr, i32)
declare ptr @PyObject_GetAttr(ptr, ptr)
declare i32 @PyObject_GenericSetAttr(ptr, ptr, ptr)
declare ptr @PyObject_Vectorcall(ptr, ptr, i64, ptr)
declare i32 @PyUnicode_Compare(ptr, ptr)
declare i64 @PyLong_AsLongLongAndOverflow(ptr, ptr)
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)
declare void @PyErr_Clear()
declare ptr @PyErr_NoMemory()
declare ptr @PyMem_RawMalloc(i64)
declare void @PyMem_RawFree(ptr)
"""

_RUN = f"""
define internal void @copy(ptr %from, ptr %to, i64 %n) {{
entry:
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %more, %look ]
  %end = icmp eq i64 %i, %n
  br i1 %end, label %out, label %look
look:
{word("%x", "%from", "%i")}
  %place = getelementptr i64, ptr %to, i64 %i
  store i64 %x, ptr %place
  %more = add i64 %i, 1
  br label %next
out:
  ret void
}}

define internal void @clear(ptr %to, i64 %n) {{
entry:
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %more, %look ]
  %end = icmp eq i64 %i, %n
  br i1 %end, label %out, label %look
look:
  %place = getelementptr i64, ptr %to, i64 %i
  store i64 0, ptr %place
  %more = add i64 %i, 1
  br label %next
out:
  ret void
}}

; Run the program; if it takes long, without holding up other threads.
define internal void @run(ptr %record, ptr %pointers) {{
entry:
{field("program", "%record", "ptr")}
{field("release", "%record")}
  %short = icmp eq i64 %release, 0
  br i1 %short, label %at.once, label %released
at.once:
  call void %program(ptr %pointers, i64 0, i64 0)
  ret void
released:
  %thread = call ptr @PyEval_SaveThread()
  call void %program(ptr %pointers, i64 0, i64 0)
  call void @PyEval_RestoreThread(ptr %thread)
  ret void
}}"""


def _keywords(layout: Layout) -> str:
    return f"""
; Put keyword arguments into registers in the record's order. False: other names. Names at call
; sites are interned, and so are the record's; those of unpacked dicts may need to be compared.
define internal i1 @keywords(ptr %names, ptr %given, ptr %args, ptr %values, i64 %n) {{
entry:
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %found ]
  %i.end = icmp eq i64 %i, %n
  br i1 %i.end, label %yes, label %name
name:
{word("%wanted", "%names", "%i", "ptr")}
  %items = getelementptr i8, ptr %given, i64 {layout.tuple_items}
  br label %search
search:
  %k = phi i64 [ 0, %name ], [ %k.next, %look ]
  %k.end = icmp eq i64 %k, %n
  br i1 %k.end, label %compare, label %look
look:
{word("%seen", "%items", "%k", "ptr")}
  %k.next = add i64 %k, 1
  %same = icmp eq ptr %seen, %wanted
  br i1 %same, label %found, label %search
compare:
  %c = phi i64 [ 0, %search ], [ %c.next, %spelt ]
  %c.end = icmp eq i64 %c, %n
  br i1 %c.end, label %no, label %spelt
spelt:
{word("%spelling", "%items", "%c", "ptr")}
  %c.next = add i64 %c, 1
  %order = call i32 @PyUnicode_Compare(ptr %spelling, ptr %wanted)
  %equal = icmp eq i32 %order, 0
  br i1 %equal, label %found, label %compare
found:
  %at = phi i64 [ %k, %look ], [ %c, %spelt ]
{word("%x", "%args", "%at", "ptr")}
  %place = getelementptr ptr, ptr %values, i64 %i
  store ptr %x, ptr %place
  %i.next = add i64 %i, 1
  br label %next
yes:
  ret i1 true
no:
  ret i1 false
}}"""


def _attempt(layout: Layout) -> str:
    return f"""
; Serve a call as one signature says: the result, null if an exception is set, or MISMATCH.
define internal ptr @attempt(ptr %record, ptr %context, ptr %args, i64 %n, ptr %names, \
i64 %named) {{
entry:
{field("positional", "%record")}
{field("keywords", "%record")}
  %n.fits = icmp eq i64 %n, %positional
  %named.fits = icmp eq i64 %named, %keywords
  %fits = and i1 %n.fits, %named.fits
  br i1 %fits, label %begin, label %no
begin:
{field("values", "%record")}
{field("pointers", "%record")}
{field("scratch", "%record")}
{field("held", "%record")}
  %parts = alloca ptr, i64 %values
  %addresses = alloca ptr, i64 %pointers
  %slots = alloca i128, i64 %scratch
  %references = alloca ptr, i64 %held
  store i64 0, ptr %references
  call void @copy(ptr %args, ptr %parts, i64 %n)
{field("names", "%record", "ptr", called="names.wanted")}
  %named.args = getelementptr ptr, ptr %args, i64 %n
  %named.parts = getelementptr ptr, ptr %parts, i64 %n
  %named.found = call i1 @keywords(ptr %names.wanted, ptr %names, ptr %named.args,
                                   ptr %named.parts, i64 %named)
  br i1 %named.found, label %constant, label %no
constant:
{field("constants", "%record", "ptr")}
{field("constant_count", "%record")}
  %constant.parts = getelementptr ptr, ptr %named.parts, i64 %named
  call void @copy(ptr %constants, ptr %constant.parts, i64 %constant_count)
{field("take", "%record", "ptr")}
{field("hold", "%record")}
  %taken = call i1 @take(ptr %take, ptr %parts, ptr %addresses, ptr %slots, ptr %references,
                         i64 %hold)
  br i1 %taken, label %results, label %other
other:
  call void @release(ptr %references)
  ret ptr {MISMATCH}
results:
{field("results", "%record", called="made")}
  %registers = alloca ptr, i64 %made
  call void @clear(ptr %registers, i64 %made)
{field("give", "%record", "ptr")}
  %given = call i1 @give(ptr %give, ptr %context, ptr %registers, ptr %addresses, ptr %slots)
  br i1 %given, label %planned, label %failed
planned:
{field("arena_size", "%record", "ptr")}
  %last = sub i64 %pointers, 1
  %arena = getelementptr ptr, ptr %addresses, i64 %last
  %small = icmp eq ptr %arena_size, null
  br i1 %small, label %stack, label %large
stack:
{field("arena_bytes", "%record")}
  %frame = alloca i8, i64 %arena_bytes, align 64
  br label %go
large:
{field("arena_newer", "%record")}
  %kept = call ptr @kept(ptr %arena_newer.at, ptr %arena_size.at, ptr %context)
  %kept.failed = icmp eq ptr %kept, null
  br i1 %kept.failed, label %failed, label %large.found
large.found:
  call void @push(ptr %references, ptr %kept)
{field("none", "%context", "ptr", CONTEXT)}
  %full = icmp eq ptr %kept, %none
  br i1 %full, label %once, label %large.kept
large.kept:
  %page = call ptr @page(ptr %kept, ptr %context)
  br label %go
once:
{field("block", "%context", "ptr", CONTEXT)}
  %array = call ptr @PyObject_Vectorcall(ptr %block, ptr %arena_size.at, i64 1, ptr null)
  %array.failed = icmp eq ptr %array, null
  br i1 %array.failed, label %failed, label %once.made
once.made:
  call void @push(ptr %references, ptr %array)
{at("%array.data", "%array", layout.array("data"))}
  br label %go
go:
  %memory = phi ptr [ %frame, %stack ], [ %page, %large.kept ], [ %array.data, %once.made ]
  store ptr %memory, ptr %arena
  call void @run(ptr %record, ptr %addresses)
  call void @release(ptr %references)
{field("make", "%record", "ptr")}
  %built = call i1 @make(ptr %make, ptr %context, ptr %registers, ptr %slots, ptr %parts)
  br i1 %built, label %whole, label %broken
whole:
{field("result", "%record")}
{word("%value", "%registers", "%result", "ptr")}
  store ptr null, ptr %value.at
  call void @drop(ptr %registers, i64 %made)
  ret ptr %value
failed:
  call void @release(ptr %references)
  br label %broken
broken:
  call void @drop(ptr %registers, i64 %made)
  ret ptr null
no:
  ret ptr {MISMATCH}
}}"""


_RELEASE = """
; Give up the references on a list that `push` made.
define internal void @release(ptr %held) {
  %n = load i64, ptr %held
  %list = getelementptr ptr, ptr %held, i64 1
  call void @drop(ptr %list, i64 %n)
  ret void
}"""

_FALLBACK = f"""
; The same call through Python. The function comes before the arguments: there is room for it if
; the caller says so (PY_VECTORCALL_ARGUMENTS_OFFSET, the highest bit), else they are copied.
define internal ptr @fallback(ptr %context, ptr %self, ptr %args, i64 %flags, i64 %n, ptr %names, \
i64 %named) {{
entry:
{field("fallback", "%context", "ptr", CONTEXT)}
  %whole = add i64 %n, 1
  %room = icmp slt i64 %flags, 0
  br i1 %room, label %in.place, label %copied
in.place:
  %first = getelementptr ptr, ptr %args, i64 -1
  %saved = load ptr, ptr %first
  store ptr %self, ptr %first
  %quick = call ptr @PyObject_Vectorcall(ptr %fallback, ptr %first, i64 %whole, ptr %names)
  store ptr %saved, ptr %first
  ret ptr %quick
copied:
  %all = add i64 %n, %named
  %words = add i64 %all, 1
  %bytes = shl i64 %words, 3
  %copy = call ptr @PyMem_RawMalloc(i64 %bytes)
  %none = icmp eq ptr %copy, null
  br i1 %none, label %full, label %filled
full:
  %error = call ptr @PyErr_NoMemory()
  ret ptr %error
filled:
  store ptr %self, ptr %copy
  %rest = getelementptr ptr, ptr %copy, i64 1
  call void @copy(ptr %args, ptr %rest, i64 %all)
  %slow = call ptr @PyObject_Vectorcall(ptr %fallback, ptr %copy, i64 %whole, ptr %names)
  call void @PyMem_RawFree(ptr %copy)
  ret ptr %slow
}}"""


def _call(layout: Layout) -> str:
    return f"""
; A vectorcall of a compiled function. The snapshot is ours until we are done: signatures may be
; added or forgotten meanwhile. Inside a trace, Python decides.
define ptr @{ENTRY}(ptr %self, ptr %args, i64 %flags, ptr %names) {{
entry:
{at("%snapshot", "%self", layout.snapshot)}
{field("context", "%snapshot", "ptr", SNAPSHOT)}
{field("scopes", "%context", "ptr", CONTEXT)}
{at("%open", "%scopes", layout.size, "i64")}
  %n = and i64 %flags, {(1 << 63) - 1}
  %unnamed = icmp eq ptr %names, null
  br i1 %unnamed, label %known, label %count
count:
{at("%names.size", "%names", layout.size, "i64")}
  br label %known
known:
  %named = phi i64 [ 0, %entry ], [ %names.size, %count ]
  %free = icmp eq i64 %open, 0
  br i1 %free, label %begin, label %other
begin:
{field("owner", "%snapshot", "ptr", SNAPSHOT)}
{field("count", "%snapshot", "i64", SNAPSHOT, "signatures")}
  %records = getelementptr ptr, ptr %snapshot, i64 {len(SNAPSHOT)}
  call void @Py_IncRef(ptr %owner)
  br label %next
next:
  %i = phi i64 [ 0, %begin ], [ %more, %look ]
  %end = icmp eq i64 %i, %signatures
  br i1 %end, label %missed, label %look
look:
{word("%record", "%records", "%i", "ptr")}
  %more = add i64 %i, 1
  %result = call ptr @attempt(ptr %record, ptr %context, ptr %args, i64 %n, ptr %names,
                              i64 %named)
  %mismatch = icmp eq ptr %result, {MISMATCH}
  br i1 %mismatch, label %next, label %served
served:
  call void @Py_DecRef(ptr %owner)
  ret ptr %result
missed:
  call void @Py_DecRef(ptr %owner)
  br label %other
other:
  %python = call ptr @fallback(ptr %context, ptr %self, ptr %args, i64 %flags, i64 %n, ptr %names,
                               i64 %named)
  ret ptr %python
}}"""
