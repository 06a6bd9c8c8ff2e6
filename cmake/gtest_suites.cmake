# SPDX-License-Identifier: Apache-2.0
# imagefs_gtest(TARGET PREFIX [EXCLUDE NAME...]): a test of ctest for every suite of a GoogleTest program, by the name
# PREFIX.SUITE; not, as gtest_discover_tests has it, for every test: starting a process took longer than most of them.
# The program is asked for its suites once it is linked. Run as a script, this file asks. Where programs are emulated,
# what tests/emulation_skips names is left out.
if(NOT CMAKE_SCRIPT_MODE_FILE)
  set(IMAGEFS_GTEST_SUITES ${CMAKE_CURRENT_LIST_FILE})
  # Emulation takes ten times as long, and sanitizers several times.
  if(CMAKE_CROSSCOMPILING OR IMAGEFS_SANITIZE)
    set(IMAGEFS_UNIT_TIMEOUT 1200)
  else()
    set(IMAGEFS_UNIT_TIMEOUT 300)
  endif()

  if(CMAKE_CROSSCOMPILING)
    set(IMAGEFS_UNIT_SKIPS ${CMAKE_SOURCE_DIR}/tests/emulation_skips)
  endif()

  function(imagefs_gtest target prefix)
    cmake_parse_arguments(arg "" "" EXCLUDE ${ARGN})
    set(tests ${CMAKE_CURRENT_BINARY_DIR}/${target}_suites.cmake)
    add_custom_command(
      TARGET ${target} POST_BUILD
      BYPRODUCTS ${tests}
      COMMAND ${CMAKE_COMMAND} "-DPROGRAM=$<TARGET_FILE:${target}>" "-DEMULATOR=${CMAKE_CROSSCOMPILING_EMULATOR}"
              "-DPREFIX=${prefix}" "-DEXCLUDE=${arg_EXCLUDE}" "-DTIMEOUT=${IMAGEFS_UNIT_TIMEOUT}" "-DSKIPS=${IMAGEFS_UNIT_SKIPS}"
              "-DOUTPUT=${tests}" -P ${IMAGEFS_GTEST_SUITES}
      VERBATIM)
    set_property(TARGET ${target} APPEND PROPERTY LINK_DEPENDS ${IMAGEFS_GTEST_SUITES} ${IMAGEFS_UNIT_SKIPS})
    # One that was not built fails; it is not absent.
    set(include ${CMAKE_CURRENT_BINARY_DIR}/${target}_include.cmake)
    file(WRITE ${include} "if(EXISTS \"${tests}\")\n  include(\"${tests}\")\nelse()\n"
                          "  add_test(${prefix}.not_built ${target}_not_built)\n"
                          "  set_tests_properties(${prefix}.not_built PROPERTIES LABELS unit)\nendif()\n")
    set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${include})
  endfunction()
  return()
endif()

cmake_minimum_required(VERSION 3.25)
execute_process(COMMAND ${EMULATOR} ${PROGRAM} --gtest_list_tests OUTPUT_VARIABLE list RESULT_VARIABLE result TIMEOUT 120)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${PROGRAM} --gtest_list_tests: ${result}\n${list}")
endif()
set(command)
foreach(word ${EMULATOR} ${PROGRAM})
  string(APPEND command " [==[${word}]==]")
endforeach()
# The list has suites, and indented below each its tests.
set(script)
set(suite)
string(REPLACE ";" " " list "${list}")
string(REPLACE "\n" ";" list "${list}")
set(suites)
foreach(line IN LISTS list)
  if(line MATCHES "^([A-Za-z0-9_/]+)\\.( |$)")
    set(suite ${CMAKE_MATCH_1})
    list(APPEND suites ${suite})
  elseif(line MATCHES "^  ([A-Za-z0-9_/]+)( |$)")
    list(APPEND tests "${PREFIX}.${suite}.${CMAKE_MATCH_1}")
  endif()
endforeach()

# Lines of "NAME  # REASON"; of this program each has to name a test, or a suite by "SUITE.*".
set(skips)
if(SKIPS)
  file(STRINGS ${SKIPS} lines REGEX "^${PREFIX}\\.")
  foreach(line IN LISTS lines)
    string(REGEX REPLACE " .*" "" name "${line}")
    string(REGEX REPLACE "^${PREFIX}\\.(.*)\\.\\*$" "\\1" whole "${name}")
    if(NOT (whole IN_LIST suites OR name IN_LIST tests))
      message(FATAL_ERROR "${SKIPS}: there is no ${name}")
    endif()
    list(APPEND skips "${name}")
  endforeach()
endif()

foreach(suite ${suites})
  set(name "${PREFIX}.${suite}")
  if(NOT suite IN_LIST EXCLUDE AND NOT "${name}.*" IN_LIST skips)
    set(filter "${suite}.*")
    set(sign "-")
    foreach(skip ${skips})
      if(skip MATCHES "^${PREFIX}\\.(${suite}\\..*)")
        string(APPEND filter "${sign}${CMAKE_MATCH_1}")
        set(sign ":")
      endif()
    endforeach()
    string(APPEND script "add_test([==[${name}]==]${command} [==[--gtest_filter=${filter}]==])\n"
                         "set_tests_properties([==[${name}]==] PROPERTIES LABELS unit TIMEOUT ${TIMEOUT})\n")
  endif()
endforeach()
if(script STREQUAL "")
  message(FATAL_ERROR "${PROGRAM} names no suite")
endif()
file(WRITE ${OUTPUT} "${script}")
