"""The four snippets of the tutorial, as printed but for the import line."""

from .steps import IMPORT_POOL, Step

SQUARE = Step(
    "square",
    f"""\
{IMPORT_POOL}

# Example function to process an item
def square(n):
    return n * n

# Using map_async
with Pool(processes=4) as pool:
    result = pool.map_async(square, [1, 2, 3, 4])
    output = result.get()  # Get the processed results
    print(output)
""",
    printed="[1, 4, 9, 16]",
)

OBJECTS = Step(
    "objects",
    """\
# Example: List of custom objects
class Person:
    def __init__(self, name, age):
        self.name = name
        self.age = age

people = [Person("Alice", 30), Person("Bob", 25), Person("Charlie", 35)]

# Function to update age
def increase_age(person):
    person.age += 1
    return person

# Using map_async with objects
with Pool(processes=3) as pool:
    result = pool.map_async(increase_age, people)
    updated_people = result.get()

for person in updated_people:
    print(f"{person.name}: {person.age} years old")
""",
    printed="Alice: 31 years old\nBob: 26 years old\nCharlie: 36 years old",
    check="""\
assert all(isinstance(person, Person) for person in updated_people)
assert all(type(person) is Person for person in updated_people)
assert [person.age for person in people] == [30, 25, 35]
""",
)

CALLBACK = Step(
    "callback",
    """\
# Callback function to process results
def on_complete(results):
    print("Processing completed:", results)

# Using map_async with a callback
with Pool(processes=2) as pool:
    pool.map_async(square, [5, 6, 7, 8], callback=on_complete)
""",
    printed="Processing completed: [25, 36, 49, 64]",
)

BLOCKING = Step(
    "blocking",
    """\
# Comparison
with Pool(processes=2) as pool:
    # Blocking
    blocking_result = pool.map(square, [1, 2, 3])
    print("Blocking result:", blocking_result)

    # Non-blocking
    async_result = pool.map_async(square, [4, 5, 6])
    print("Non-blocking initiated")
    async_result.wait()  # Wait for completion
    print("Async result:", async_result.get())
""",
    printed="""\
Blocking result: [1, 4, 9]
Non-blocking initiated
Async result: [16, 25, 36]""",
)

TUTORIAL = (SQUARE, OBJECTS, CALLBACK, BLOCKING)
