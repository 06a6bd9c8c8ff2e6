// SPDX-License-Identifier: Apache-2.0
// Text in columns, for people. Columns are as wide as their widest cell on a terminal, separated by
// two blanks, and never cut. Bytes that would control a terminal or start a line are escaped as
// \xNN. The only user of libsmartcols.
#pragma once

#include <string>
#include <vector>

namespace imagefs {

// What a caller wants of a table.
struct TableStyle {
  std::vector<std::string> columns;  // by heading, in this order; none = all
  bool headings = true;
};

class Table {
 public:
  explicit Table(std::vector<std::string> headings) : headings_(std::move(headings)) {}
  // REQUIRES: as many cells as there are headings.
  void Row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  // Ends with a newline, and is the headings if there is no row. REQUIRES: every column of the
  // style is a heading.
  std::string Text(const TableStyle& style = {}) const;

 private:
  const std::vector<std::string> headings_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace imagefs
