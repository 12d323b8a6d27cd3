# zig as a compiler for any processor, from PyPI's ziglang:
#   -DMSQ_ZIG=…/ziglang/zig -DMSQ_TARGET=aarch64-linux-gnu.2.17 -DCMAKE_TOOLCHAIN_FILE=…/zig.cmake
set(MSQ_ZIG "" CACHE FILEPATH "the zig program")
set(MSQ_TARGET "" CACHE STRING "processor, system and C library that zig builds for")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES MSQ_ZIG MSQ_TARGET)
string(REGEX MATCH "^[^-]+" CMAKE_SYSTEM_PROCESSOR "${MSQ_TARGET}")
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_C_COMPILER "${MSQ_ZIG}" cc -target ${MSQ_TARGET})
set(CMAKE_CXX_COMPILER "${MSQ_ZIG}" c++ -target ${MSQ_TARGET})
set(CMAKE_AR "${MSQ_ZIG}")
set(CMAKE_C_COMPILER_AR "${MSQ_ZIG}")
set(CMAKE_C_ARCHIVE_CREATE "<CMAKE_AR> ar qcD <TARGET> <OBJECTS>")
set(CMAKE_C_ARCHIVE_APPEND "<CMAKE_AR> ar qD <TARGET> <OBJECTS>")
set(CMAKE_C_ARCHIVE_FINISH "<CMAKE_AR> ranlib <TARGET>")
# zig's linker is told by cc alone.
set(CMAKE_C_COMPILER_WORKS TRUE)
set(CMAKE_CXX_COMPILER_WORKS TRUE)
