// SPDX-License-Identifier: Apache-2.0
#include "cmd/table.h"

#include <libsmartcols.h>

#include <algorithm>
#include <memory>
#include <new>
#include <numeric>

#include "base/text.h"

namespace imagefs {
namespace {

struct Unref {
  void operator()(libscols_table* table) const { scols_unref_table(table); }
};

// The library fails only for lack of memory.
void Check(int result) {
  if (result != 0) throw std::bad_alloc();
}

std::vector<size_t> Chosen(const std::vector<std::string>& headings,
                           const std::vector<std::string>& columns) {
  std::vector<size_t> chosen;
  for (const std::string& column : columns) {
    const auto found = std::find(headings.begin(), headings.end(), column);
    if (found != headings.end()) chosen.push_back(static_cast<size_t>(found - headings.begin()));
  }
  if (!columns.empty()) return chosen;
  chosen.resize(headings.size());
  std::iota(chosen.begin(), chosen.end(), size_t{0});
  return chosen;
}

}  // namespace

std::string Table::Text(const TableStyle& style) const {
  const std::vector<size_t> chosen = Chosen(headings_, style.columns);
  if (rows_.empty()) {
    // The library prints nothing at all for an empty table.
    std::string out;
    for (const size_t column : chosen) {
      StrAppend(&out, out.empty() ? "" : "  ", headings_[column]);
    }
    return style.headings ? StrCat(out, "\n") : "";
  }
  const std::unique_ptr<libscols_table, Unref> table(scols_new_table());
  if (table == nullptr) throw std::bad_alloc();
  Check(scols_table_set_column_separator(table.get(), "  "));
  // Not as wide as the terminal: a cell that was cut would be of no use.
  Check(scols_table_set_termforce(table.get(), SCOLS_TERMFORCE_NEVER));
  Check(scols_table_enable_noheadings(table.get(), style.headings ? 0 : 1));
  for (const size_t column : chosen) {
    if (scols_table_new_column(table.get(), headings_[column].c_str(), 0, 0) == nullptr) {
      throw std::bad_alloc();
    }
  }
  for (const std::vector<std::string>& row : rows_) {
    libscols_line* const line = scols_table_new_line(table.get(), nullptr);
    if (line == nullptr) throw std::bad_alloc();
    for (size_t i = 0; i < chosen.size(); ++i) {
      Check(scols_line_set_data(line, i, row[chosen[i]].c_str()));
    }
  }
  char* text = nullptr;
  Check(scols_print_table_to_string(table.get(), &text));
  const std::unique_ptr<char, decltype(&free)> owned(text, &free);
  return StrCat(text, "\n");
}

}  // namespace imagefs
