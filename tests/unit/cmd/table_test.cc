// SPDX-License-Identifier: Apache-2.0
#include "cmd/table.h"

#include <locale.h>

#include "gtest/gtest.h"

namespace imagefs {
namespace {

Table Sample() {
  Table table({"NAME", "SIZE", "USED BY"});
  table.Row({"a", "10 B", "x"});
  table.Row({"longer", "9 MiB", ""});
  return table;
}

TEST(TableTest, ColumnsAreAsWideAsTheirWidestCellAndNotPaddedAtTheEnd) {
  EXPECT_EQ(Sample().Text(),
            "NAME    SIZE   USED BY\n"
            "a       10 B   x\n"
            "longer  9 MiB  \n");
}

TEST(TableTest, HasTheColumnsThatWereAskedForInThatOrder) {
  EXPECT_EQ(Sample().Text({.columns = {"USED BY", "NAME"}}),
            "USED BY  NAME\n"
            "x        a\n"
            "         longer\n");
  EXPECT_EQ(Sample().Text({.columns = {"NAME"}, .headings = false}), "a\nlonger\n");
}

TEST(TableTest, WithoutRowsItIsTheHeadings) {
  const Table table({"NAME", "SIZE"});
  EXPECT_EQ(table.Text(), "NAME  SIZE\n");
  EXPECT_EQ(table.Text({.columns = {"SIZE"}}), "SIZE\n");
  EXPECT_EQ(table.Text({.headings = false}), "");
}

TEST(TableTest, WidthIsThatOfTheTerminalAndNotOfTheBytes) {
  if (setlocale(LC_CTYPE, "C.UTF-8") == nullptr) FAIL() << "no C.UTF-8";
  Table table({"NAME", "SIZE"});
  table.Row({"übung", "1"});
  table.Row({"abcde", "2"});
  table.Row({"漢字", "3"});
  EXPECT_EQ(table.Text({.headings = false}),
            "übung  1\n"
            "abcde  2\n"
            "漢字   3\n");
  setlocale(LC_CTYPE, "C");
}

TEST(TableTest, NothingControlsTheTerminal) {
  Table table({"NAME", "SIZE"});
  table.Row({"a\nb\x1b[31mred\x7f", "1"});
  table.Row({"\xff", "2"});
  const std::string text = table.Text({.headings = false});
  EXPECT_NE(text.find("a\\x0ab\\x1b[31mred\\x7f  1\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\\xff"), std::string::npos) << text;
}

}  // namespace
}  // namespace imagefs
